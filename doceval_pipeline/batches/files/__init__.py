"""The files of a batch: walks its folders, lists what they hold, and counts what is used."""
