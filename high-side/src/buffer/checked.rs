//! Rows that carry the SHA-256 of their own values, so that a flipped bit in one is noticed.
//!
//! The last column of such a table is `check`. A row is read and written as a whole.

use rusqlite::Row;
use rusqlite::types::{Value, ValueRef};
use sha2::{Digest, Sha256};
use shared::clock::Nanos;

use super::block::Hash;
use super::counts::Tally;
use super::error::BufferError;

/// Appends the check to the values of a row of `table`.
pub(super) fn seal_row(table: &'static str, mut values: Vec<Value>) -> Vec<Value> {
    let mut check = Check::new(table);
    for value in &values {
        check.add(value.into());
    }
    values.push(Value::Blob(check.finish().to_vec()));
    values
}

/// Reads a whole row of `table` and verifies its check.
pub(super) fn open_row(table: &'static str, row: &Row<'_>) -> Result<Fields, BufferError> {
    let columns = row.as_ref().column_count();
    let broken = || BufferError::Broken(format!("a row of table {table} fails its check"));
    let mut check = Check::new(table);
    let mut values = Vec::with_capacity(columns);
    for column in 0..columns - 1 {
        let value = row.get_ref(column)?;
        check.add(value);
        values.push(Value::try_from(value).map_err(|_| broken())?);
    }
    if row.get_ref(columns - 1)? != ValueRef::Blob(&check.finish()) {
        return Err(broken());
    }
    Ok(Fields { table, values: values.into_iter() })
}

struct Check(Sha256);

impl Check {
    fn new(table: &str) -> Self {
        Self(Sha256::new().chain_update("penstock buffer row v1\n").chain_update(table))
    }

    fn add(&mut self, value: ValueRef<'_>) {
        let mut part = |kind: u8, bytes: &[u8]| {
            self.0.update([kind]);
            self.0.update((bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        };
        match value {
            ValueRef::Null => part(0, &[]),
            ValueRef::Integer(value) => part(1, &value.to_le_bytes()),
            ValueRef::Real(value) => part(2, &value.to_le_bytes()),
            ValueRef::Text(value) => part(3, value),
            ValueRef::Blob(value) => part(4, value),
        }
    }

    fn finish(self) -> Hash {
        self.0.finalize().into()
    }
}

/// The values of a verified row, taken one after the other.
pub(super) struct Fields {
    table: &'static str,
    values: std::vec::IntoIter<Value>,
}

impl Fields {
    pub(super) fn number(&mut self) -> Result<u64, BufferError> {
        self.optional_number()?.ok_or_else(|| self.wrong())
    }

    pub(super) fn optional_number(&mut self) -> Result<Option<u64>, BufferError> {
        match self.values.next() {
            Some(Value::Null) => Ok(None),
            Some(Value::Integer(value)) => u64::try_from(value).map(Some).map_err(|_| self.wrong()),
            _ => Err(self.wrong()),
        }
    }

    pub(super) fn time(&mut self) -> Result<Nanos, BufferError> {
        self.optional_time()?.ok_or_else(|| self.wrong())
    }

    pub(super) fn optional_time(&mut self) -> Result<Option<Nanos>, BufferError> {
        match self.values.next() {
            Some(Value::Null) => Ok(None),
            Some(Value::Integer(value)) => Ok(Some(Nanos(value))),
            _ => Err(self.wrong()),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, BufferError> {
        self.optional_text()?.ok_or_else(|| self.wrong())
    }

    pub(super) fn optional_text(&mut self) -> Result<Option<String>, BufferError> {
        match self.values.next() {
            Some(Value::Null) => Ok(None),
            Some(Value::Text(value)) => Ok(Some(value)),
            _ => Err(self.wrong()),
        }
    }

    pub(super) fn counts(&mut self) -> Result<Tally, BufferError> {
        let text = self.text()?;
        Tally::from_text(&text).ok_or_else(|| self.wrong())
    }

    pub(super) fn hash(&mut self) -> Result<Hash, BufferError> {
        self.optional_hash()?.ok_or_else(|| self.wrong())
    }

    pub(super) fn optional_hash(&mut self) -> Result<Option<Hash>, BufferError> {
        match self.values.next() {
            Some(Value::Null) => Ok(None),
            Some(Value::Blob(value)) => {
                Hash::try_from(value.as_slice()).map(Some).map_err(|_| self.wrong())
            }
            _ => Err(self.wrong()),
        }
    }

    /// A text that must parse.
    pub(super) fn parsed<T: std::str::FromStr>(&mut self) -> Result<T, BufferError> {
        self.text()?.parse().map_err(|_| self.wrong())
    }

    fn wrong(&self) -> BufferError {
        BufferError::Broken(format!("a row of table {} has a value of the wrong kind", self.table))
    }
}

/// An unsigned number as `SQLite` keeps it. Sequences, sizes and counts stay far below 2^63.
pub(super) fn number(value: u64) -> Value {
    Value::Integer(value.cast_signed())
}

/// A time as `SQLite` keeps it.
pub(super) fn time(value: Nanos) -> Value {
    Value::Integer(value.0)
}

/// A hash as `SQLite` keeps it.
pub(super) fn hash(value: &Hash) -> Value {
    Value::Blob(value.to_vec())
}

/// A text as `SQLite` keeps it.
pub(super) fn text(value: impl Into<String>) -> Value {
    Value::Text(value.into())
}

/// A value that may be missing.
pub(super) fn optional<T>(value: Option<T>, with: impl FnOnce(T) -> Value) -> Value {
    value.map_or(Value::Null, with)
}
