//! Checks of the definitions: names as upstream's, structural schemas, the facts that server-side apply needs.
