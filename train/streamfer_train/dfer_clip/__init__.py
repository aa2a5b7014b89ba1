"""DFER-CLIP: reading clips, training, and evaluation of the recipes in ``configs/train/dfer_clip``."""
