"""The paper's claims: a module each, `bench` and `runs` that they work with, `claims` that tries them."""
