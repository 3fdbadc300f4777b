    -- In a database that others use too, what they may do is not ours to say.
    alone := NOT EXISTS (
        SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema'
          AND NOT starts_with(n.nspname, 'pg_') AND c.relname <> ALL (ours));
    -- Large objects have no bound and no owner that anybody looks at. Only a superuser may take them away.
    IF alone AND (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC;
    END IF;
