"""The KnowledgeDocuments database: contents, the queue and what came back. Knows no other database."""
