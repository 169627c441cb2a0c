"""Masks of what people have: folders of photos, encoded photos, pictures of any size, videos."""
