-- Who may do what in Dagster's database, as far as the role that runs this may grant it; the setting
-- doceval.tables holds the names of Dagster's tables. Run again at any time.
DO $$
DECLARE
    tables constant text[] := string_to_array(current_setting('doceval.tables'), ',');
    place  constant regnamespace := current_schema();
    owned  constant boolean := (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database
                                WHERE datname = current_database());
    alone  constant boolean := NOT EXISTS (
        SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema'
          AND NOT starts_with(n.nspname, 'pg_') AND c.relname <> ALL (tables));
    found  record;
BEGIN
    IF owned THEN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO doceval_owner, doceval_stager, %I',
                       current_database(), current_user);
    END IF;
    IF owned AND alone THEN
        EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database());
    END IF;
    IF (SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE oid = place) THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %s TO doceval_owner, doceval_stager', place);
        -- Where functions of the pipeline look for tables, nobody but the owner may make any.
        IF alone THEN
            EXECUTE format('GRANT CREATE ON SCHEMA %s TO doceval_owner, doceval_stager', place);
        END IF;
    END IF;
    FOR found IN
        SELECT c.oid::regclass AS name FROM pg_class c
        WHERE c.relnamespace = place AND c.relname = ANY (tables) AND pg_has_role(c.relowner, 'USAGE')
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE %s TO doceval_owner, doceval_stager',
                       found.name);
    END LOOP;
    FOR found IN
        SELECT s.oid::regclass AS name
        FROM pg_class s JOIN pg_depend d ON d.objid = s.oid AND d.deptype IN ('a', 'i')
        JOIN pg_class c ON c.oid = d.refobjid
        WHERE s.relkind = 'S' AND c.relnamespace = place AND c.relname = ANY (tables)
          AND pg_has_role(s.relowner, 'USAGE')
    LOOP
        EXECUTE format('GRANT USAGE, SELECT, UPDATE ON SEQUENCE %s TO doceval_owner, doceval_stager', found.name);
    END LOOP;
    -- What is made later, by this role and by all others for which it may say so.
    FOR found IN
        SELECT rolname AS name FROM pg_roles
        WHERE alone AND pg_has_role(oid, 'USAGE')
          AND (rolname = current_user OR NOT rolsuper AND (
              pg_has_role(oid, 'doceval_owner', 'USAGE') OR pg_has_role(oid, 'doceval_stager', 'USAGE')))
    LOOP
        EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %s '
                       'GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO doceval_owner, doceval_stager',
                       found.name, place);
        EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %s '
                       'GRANT USAGE, SELECT, UPDATE ON SEQUENCES TO doceval_owner, doceval_stager',
                       found.name, place);
    END LOOP;
END $$;
