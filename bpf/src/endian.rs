//! Integers as they stand in a packet: network byte order, kept in the type.
//!
//! Owns the conversion alone; which fields are in this order is `abi.h`'s business.

/// A 16-bit integer in network byte order (C's `__be16`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct Be16(u16);

/// A 32-bit integer in network byte order (C's `__be32`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct Be32(u32);

impl Be16 {
    /// From a number in host order.
    pub const fn new(host: u16) -> Be16 {
        Be16(host.to_be())
    }

    /// The number in host order.
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl Be32 {
    /// From a number in host order.
    pub const fn new(host: u32) -> Be32 {
        Be32(host.to_be())
    }

    /// The number in host order.
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }
}

impl From<std::net::Ipv4Addr> for Be32 {
    fn from(address: std::net::Ipv4Addr) -> Be32 {
        Be32(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Be32> for std::net::Ipv4Addr {
    fn from(address: Be32) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::from(address.0.to_ne_bytes())
    }
}

impl std::fmt::Debug for Be16 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.get(), f)
    }
}

impl std::fmt::Debug for Be32 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.get(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn memory_holds_the_most_significant_byte_first() {
        assert_eq!(Be16::new(0x0102).0.to_ne_bytes(), [1, 2]);
        assert_eq!(Be32::new(0x0102_0304).0.to_ne_bytes(), [1, 2, 3, 4]);
        assert_eq!(Be16::new(80).get(), 80);
    }

    #[test]
    fn an_address_keeps_its_octets() {
        let address = Ipv4Addr::new(10, 0, 0, 1);
        assert_eq!(Ipv4Addr::from(Be32::from(address)), address);
        assert_eq!(Be32::from(address).get(), 0x0a00_0001);
    }
}
