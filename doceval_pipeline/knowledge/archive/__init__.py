"""What KnowledgeDocuments holds of an archived batch: dumps it, and loads it again."""
