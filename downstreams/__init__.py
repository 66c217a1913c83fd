"""SUPERB tasks and their heads, trained by s3prl's runner."""
