//! Records in the words of each SIEM's schema. Pure: a view of a record in, bytes out.
