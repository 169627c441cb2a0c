"""From photos to labels nobody drew: frozen CLIP, SAM and DINOv2 encode once, words label as often as wanted."""
