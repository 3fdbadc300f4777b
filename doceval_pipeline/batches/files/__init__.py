"""The files of a batch: walks its folders, lists their files, and counts the usable ones."""
