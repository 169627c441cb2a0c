"""Small worlds for the tests: photos, DATA, RUNs, models, servers and processes, and what results are held against."""
