"""The series of a recurring evaluation: its page, its drift marks and its findings."""
