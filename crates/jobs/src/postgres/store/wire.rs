//! Postgres types in binary form that the driver has no Rust type for, and positions as numbers.

use std::error::Error as StdError;

use bytes::{BufMut, BytesMut};
use postgres_types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// A tuple's place: block and line pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tid {
    pub(crate) block: u32,
    pub(crate) offset: u16,
}

impl Tid {
    /// As the engine's cursor: the block above, the line pointer in the low 16 bits. Order is physical order.
    pub(crate) fn position(self) -> u64 {
        u64::from(self.block) << 16 | u64::from(self.offset)
    }

    /// Positions beyond the largest block stand for the end.
    pub(crate) fn at(position: u64) -> Self {
        let block = u32::try_from(position >> 16).unwrap_or(u32::MAX);
        let offset = u16::try_from(position & 0xffff).unwrap_or(u16::MAX);
        Self { block, offset }
    }
}

impl ToSql for Tid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.put_u32(self.block);
        out.put_u16(self.offset);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TID
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Tid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        let raw: [u8; 6] = raw.try_into()?;
        let [a, b, c, d, e, f] = raw;
        Ok(Self { block: u32::from_be_bytes([a, b, c, d]), offset: u16::from_be_bytes([e, f]) })
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TID
    }
}

/// A transaction id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Xid(pub(crate) u32);

impl ToSql for Xid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.put_u32(self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Xid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(u32::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID
    }
}

/// The bytes of a value as they are on the wire: a text's characters, a bytea's bytes, a uuid's sixteen. Has no `Debug`
/// worth the name: what it holds may be plaintext.
#[derive(Clone, Copy)]
pub(crate) struct Raw<'a>(pub(crate) &'a [u8]);

impl std::fmt::Debug for Raw<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raw(..)")
    }
}

impl ToSql for Raw<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.put_slice(self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::TEXT | Type::BYTEA)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::TEXT | Type::BYTEA | Type::UUID)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_in_physical_order_and_come_back() {
        let tids = [(0, 1), (0, 291), (1, 1), (u32::MAX - 1, u16::MAX)].map(|(block, offset)| Tid { block, offset });
        assert!(tids.windows(2).all(|pair| pair[0].position() < pair[1].position()));
        assert!(tids.iter().all(|tid| Tid::at(tid.position()) == *tid));
        assert_eq!(Tid::at(u64::MAX), Tid { block: u32::MAX, offset: u16::MAX });
    }
}
