"""DistilHuBERT: s3prl's Distiller, its files and its objective."""
