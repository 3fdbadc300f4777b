-- Both schemas make the same function, because they may be in one database.
CREATE OR REPLACE FUNCTION advance_numbers(numbered text, largest bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    -- The bounds of numbers in archives, which leave enough for whatever comes later.
    most constant bigint := CASE
        WHEN numbered IN ('documents', 'docs', 'llm_responses') THEN 1000000000000000
        WHEN numbered IN ('batches', 'folders', 'connections', 'prompts') THEN 1000000000 END;
    sequence regclass;
BEGIN
    IF most IS NULL OR largest IS NULL OR largest > most THEN
        RAISE invalid_parameter_value USING MESSAGE = 'advance_numbers: no such table, or too large a number';
    END IF;
    sequence := pg_get_serial_sequence(numbered, 'id');
    IF coalesce(pg_sequence_last_value(sequence), 0) < largest THEN
        PERFORM setval(sequence, largest);
    END IF;
END $$;
REVOKE ALL ON FUNCTION advance_numbers FROM PUBLIC;
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION advance_numbers SET search_path = %I, pg_temp', current_schema());
END $$;
