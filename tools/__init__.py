"""What writes tables, figures and pictures for the README and for a reader out of finished DATA and RUNs."""
