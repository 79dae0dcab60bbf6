-- Cancels a deployment: at once what waits; what runs is asked to stop, and ends as its runner reports.
--
--   psql -X -v id=DEPLOYMENT_ID [-v reason=WHY] < cancel.sql
\set ON_ERROR_STOP on
\if :{?reason}
\else
  \set reason 'cancelled from psql'
\endif
SELECT tendril.cancel(:'id', :'reason') AS status;
