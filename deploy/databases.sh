#!/bin/sh
# Run by the PostgreSQL image when its volume is empty: the three databases and the login roles of compose.yaml.
set -eu
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres \
    -v pipeline="$PIPELINE_PASSWORD" -v processor="$PROCESSOR_PASSWORD" <<'SQL'
CREATE DATABASE doc_eval             ENCODING 'UTF8' TEMPLATE template0;
CREATE DATABASE "KnowledgeDocuments" ENCODING 'UTF8' TEMPLATE template0;
CREATE DATABASE dagster              ENCODING 'UTF8' TEMPLATE template0;
CREATE ROLE my_pipeline LOGIN PASSWORD :'pipeline';
CREATE ROLE my_processor LOGIN PASSWORD :'processor';
SQL
