-- Users of a ClickHouse server for LivePulse, each with no more than its work needs. Run it as an administrator, with
-- passwords of your own (SHA-256, or better certificates); `livepulse` is the setting `database`.
--
-- livepulse_migrator  makes and changes tables and views: `livepulse run` needs it only when the version changes
-- livepulse_writer    the engine (settings store_user, store_password_file)
-- livepulse_reader    people, boards, alert rules: reads views, with caps, and can change nothing

CREATE SETTINGS PROFILE IF NOT EXISTS livepulse_capped SETTINGS
    readonly = 1,
    max_execution_time = 30 CHANGEABLE_IN_READONLY,
    max_memory_usage = 2000000000,
    max_rows_to_read = 1000000000,
    max_result_rows = 1000000,
    max_result_bytes = 200000000,
    max_concurrent_queries_for_user = 20,
    allow_ddl = 0;

CREATE USER IF NOT EXISTS livepulse_migrator IDENTIFIED WITH sha256_password BY 'choose-one';
CREATE USER IF NOT EXISTS livepulse_writer IDENTIFIED WITH sha256_password BY 'choose-another';
CREATE USER IF NOT EXISTS livepulse_reader IDENTIFIED WITH sha256_password BY 'choose-a-third'
    SETTINGS PROFILE 'livepulse_capped';

GRANT CREATE DATABASE, CREATE TABLE, CREATE VIEW, ALTER, DROP TABLE, DROP VIEW, SELECT, INSERT ON livepulse.* TO livepulse_migrator;
GRANT SELECT ON system.tables TO livepulse_migrator;
GRANT SELECT ON system.columns TO livepulse_migrator;
GRANT SELECT ON system.parts TO livepulse_migrator;

GRANT SELECT, INSERT ON livepulse.* TO livepulse_writer;
GRANT SELECT ON system.tables TO livepulse_writer;
GRANT SELECT ON system.columns TO livepulse_writer;
GRANT SELECT ON system.parts TO livepulse_writer;

GRANT SELECT ON livepulse.* TO livepulse_reader;
REVOKE SELECT ON livepulse.dead_letters FROM livepulse_reader;
REVOKE SELECT ON livepulse.dead_letters_rows FROM livepulse_reader;
