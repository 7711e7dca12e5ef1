//! The kinds that a server has, as the delivery engine reads them.

pub(crate) use delivery::kinds::{Kinds, Resource};
