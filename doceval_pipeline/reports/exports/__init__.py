"""What is exported of a batch, and the formats it is written in. Knows no database."""
