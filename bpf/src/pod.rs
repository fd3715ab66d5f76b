//! Which types may be read from and written to maps as their bytes.
//!
//! Owns the promise that each has no padding the compiler could leave unset: abi.h spells all padding out.

use crate::abi;

macro_rules! pod {
    ($($name:ident),* $(,)?) => {
        $(
            // SAFETY: `repr(C)` of integers and byte arrays alone, with every byte of padding a field of its own.
            unsafe impl aya::Pod for abi::$name {}
        )*
    };
}

pod!(
    Endpoint,
    PolicyHeader,
    PolicyKey,
    PolicyEntry,
    IpcacheKey,
    IpcacheEntry,
    Vtep,
    Ct4Key,
    Ct6Key,
    CtEntry,
    Frag4Key,
    Frag6Key,
    FragEntry,
    LbKey,
    LbService,
    LbRow,
    LbBackend,
    LbReverse,
    LbClient,
    LbAffinity,
    LbMember,
    LbSource,
    SnatKey,
    SnatEntry,
    LbPeer,
    LbAsked,
    Metric,
    Runtime,
);
