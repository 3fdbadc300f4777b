"""The KnowledgeDocuments database: documents, the queue and the results. Knows no other database."""
