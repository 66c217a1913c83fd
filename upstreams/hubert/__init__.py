"""HuBERT's pretraining: clusters, the network, the objective."""
