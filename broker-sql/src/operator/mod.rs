//! What operators do: the role that owns the schema, with CREATEROLE and CREATE on the database and no more.

pub mod clusters;
pub mod doctor;
pub mod grants;
pub mod lost_work;
pub mod migration;
pub mod queue;
pub mod set_back;
pub mod templates;
pub mod tokens;
pub mod uninstall;
