"""What the configuration database holds of an archived batch: dumps it, and loads it again."""
