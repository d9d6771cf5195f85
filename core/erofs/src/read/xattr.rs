//! Extended attributes: those that several inodes have are kept once, in an area of their own.

use super::{Nid, ReadError, View};
use crate::disk::{u16_at, u32_at, xattr};

/// An extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xattr<'a> {
    /// The beginning of its name: `user.`, `trusted.`, `security.` or the whole name of an ACL.
    pub prefix: &'static str,
    /// The rest of its name; empty for an ACL.
    pub suffix: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

impl<'a> Xattr<'a> {
    /// The whole name.
    pub fn name(&self) -> Vec<u8> {
        [self.prefix.as_bytes(), self.suffix].concat()
    }

    fn is_called(&self, name: &[u8]) -> bool {
        name.strip_prefix(self.prefix.as_bytes()) == Some(self.suffix)
    }

    /// The attribute at the beginning of `bytes`, and how long it is there.
    fn decode(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let name_bytes = usize::from(*bytes.get(xattr::NAME_BYTES)?);
        let index = *bytes.get(xattr::NAME_INDEX)?;
        let value_bytes = usize::from(u16_at(bytes, xattr::VALUE_BYTES)?);
        let value_at = xattr::ENTRY_BYTES + name_bytes;
        let end = value_at + value_bytes;
        let (_, prefix) = xattr::PREFIXES.iter().find(|(known, _)| *known == index)?;
        let decoded = Xattr {
            prefix,
            suffix: bytes.get(xattr::ENTRY_BYTES..value_at)?,
            value: bytes.get(value_at..end)?,
        };
        Some((decoded, end.next_multiple_of(xattr::ALIGN)))
    }
}

/// The extended attributes of an inode.
#[derive(Debug, Clone)]
pub struct Xattrs<'a> {
    nid: Nid,
    /// Places in `shared_area`, in units of four bytes.
    shared: &'a [u8],
    inline: &'a [u8],
    shared_area: &'a [u8],
}

impl<'a> Iterator for Xattrs<'a> {
    type Item = Result<Xattr<'a>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let decoded = if let Some((id, rest)) = self.shared.split_at_checked(xattr::ID_BYTES) {
            self.shared = rest;
            self.shared(id)
        } else if self.inline.is_empty() {
            return None;
        } else {
            self.inline()
        };
        if decoded.is_none() {
            // Nothing behind it can be found.
            (self.shared, self.inline) = (&[], &[]);
        }
        Some(decoded.ok_or(self.nid.damaged("an extended attribute is not one")))
    }
}

impl<'a> Xattrs<'a> {
    fn shared(&self, id: &[u8]) -> Option<Xattr<'a>> {
        let offset = usize::try_from(u32_at(id, 0)?).ok()?;
        let offset = offset.checked_mul(xattr::ALIGN)?;
        let (decoded, _) = Xattr::decode(self.shared_area.get(offset..)?)?;
        Some(decoded)
    }

    fn inline(&mut self) -> Option<Xattr<'a>> {
        let (decoded, length) = Xattr::decode(self.inline)?;
        self.inline = self.inline.get(length..)?;
        Some(decoded)
    }
}

impl<'a> View<'a> {
    pub(super) fn xattr(&self, nid: Nid, name: &[u8]) -> Result<Option<&'a [u8]>, ReadError> {
        for attribute in self.xattrs(nid)? {
            let attribute = attribute?;
            if attribute.is_called(name) {
                return Ok(Some(attribute.value));
            }
        }
        Ok(None)
    }

    pub(super) fn xattrs(&self, nid: Nid) -> Result<Xattrs<'a>, ReadError> {
        let inode = self.inode(nid)?;
        let mut all = Xattrs {
            nid,
            shared: &[],
            inline: &[],
            shared_area: &[],
        };
        if inode.xattrs.is_empty() {
            return Ok(all);
        }
        let split = || {
            let body = self.slice(inode.xattrs.start, inode.xattrs.end - inode.xattrs.start)?;
            let shared = usize::from(*body.get(xattr::SHARED_COUNT)?) * xattr::ID_BYTES;
            let (_, ids) = body.split_at_checked(xattr::HEADER_BYTES)?;
            ids.split_at_checked(shared)
        };
        let damaged = nid.damaged("its extended attributes are outside the image");
        (all.shared, all.inline) = split().ok_or(damaged)?;
        let area = usize::try_from(self.facts.shared_xattrs_at).ok();
        all.shared_area = area
            .and_then(|start| self.bytes.get(start..))
            .unwrap_or_default();
        Ok(all)
    }
}
