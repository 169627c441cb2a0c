"""The page to play with: its requests, and what they ask of a RUN. Imports inference."""
