"""The pocket world: small drawn scenes with exact truth, and the small CLIP, SAM and DINOv2 trained on them."""
