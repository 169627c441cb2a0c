"""Labels nobody drew: frozen CLIP, SAM and DINOv2 encode photos once, words label them as often as wanted."""
