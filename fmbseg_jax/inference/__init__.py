"""A photo and words to label maps. Imports runs; the networks of labelgen inside functions of `embedder` alone."""
