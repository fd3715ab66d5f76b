//! bpf(2), as far as aya does not offer it: batches of map elements, links by interface number, pins, test runs.
//!
//! Owns every `unsafe` line of the map and link code. What keys and values mean is `maps`'s.

#![allow(unsafe_code)] // A system call over raw memory; each use says why it is sound.

use aya::Pod;
use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const PROG_TEST_RUN: libc::c_long = 10;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const MAP_DELETE_BATCH: libc::c_long = 27;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;

/// Elements for one system call.
const BATCH: usize = 4096;

/// Attach points of a device (`enum bpf_attach_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    TcxIngress = 46,
    TcxEgress = 47,
}

#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    hook: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    former: u32,
}

#[repr(C)]
#[derive(Default)]
struct Info {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
}

/// What the kernel tells of a map, up to the flags.
#[repr(C)]
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapInfo {
    pub kind: u32,
    pub id: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

/// What the kernel tells of a program, up to its tag.
#[repr(C)]
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    pub kind: u32,
    pub id: u32,
    pub tag: [u8; 8],
}

/// What the kernel tells of a tcx link.
#[repr(C)]
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    pub kind: u32,
    pub id: u32,
    pub program: u32,
    pad: u32,
    /// 0: its device is gone.
    pub ifindex: u32,
    pub hook: u32,
}

/// What the kernel tells of a link to a cgroup.
#[repr(C)]
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupLinkInfo {
    pub kind: u32,
    pub id: u32,
    pub program: u32,
    pad: u32,
    /// 0: it is gone.
    pub cgroup: u64,
    pub hook: u32,
    end: u32,
}

/// SAFETY: for the caller: every pointer in `attribute` is valid for the command.
unsafe fn bpf<T>(command: libc::c_long, attribute: &mut T) -> io::Result<libc::c_long> {
    loop {
        // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of `attribute` and what the pointers in it name.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, attribute as *mut T, size_of::<T>()) };
        if result >= 0 {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        // A program load or test run can be interrupted by a signal, a batch by contention.
        if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
            return Err(error);
        }
    }
}

fn raw(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd() as u32
}

/// Opens what is pinned at a path: a map, a program or a link.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attribute = Pin { path: path.as_ptr() as u64, ..Pin::default() };
    // SAFETY: `path` is a string with its final zero and lives until after the call.
    let fd = unsafe { bpf(OBJ_GET, &mut attribute) }?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Pins an object at a path that must not exist yet.
pub fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attribute = Pin { path: path.as_ptr() as u64, fd: raw(fd), flags: 0 };
    // SAFETY: `path` is a string with its final zero and lives until after the call.
    unsafe { bpf(OBJ_PIN, &mut attribute) }.map(drop)
}

/// Attaches a program to a tcx hook of a device, after those that are there.
pub fn link(program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<OwnedFd> {
    let mut attribute = LinkCreate { program: raw(program), ifindex, hook: hook as u32, ..LinkCreate::default() };
    // SAFETY: no pointers.
    let fd = unsafe { bpf(LINK_CREATE, &mut attribute) }?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches a program to a hook (`enum bpf_attach_type`) of a cgroup, beside those that are there.
pub fn link_cgroup(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, hook: u32) -> io::Result<OwnedFd> {
    let mut attribute = LinkCreate { program: raw(program), ifindex: raw(cgroup), hook, ..LinkCreate::default() };
    // SAFETY: no pointers.
    let fd = unsafe { bpf(LINK_CREATE, &mut attribute) }?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Puts a program in the place of the one that a link holds; no packet sees neither.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attribute = LinkUpdate { link: raw(link), program: raw(program), ..LinkUpdate::default() };
    // SAFETY: no pointers.
    unsafe { bpf(LINK_UPDATE, &mut attribute) }.map(drop)
}

/// Whether the kernel knows tcx: one that does misses the device, one that does not misses the hook.
pub fn knows_tcx(program: BorrowedFd<'_>) -> bool {
    const NO_DEVICE: u32 = i32::MAX as u32;
    link(program, NO_DEVICE, Hook::TcxIngress).is_err_and(|error| error.raw_os_error() == Some(libc::ENODEV))
}

/// What a kernel object tells of itself. Implemented for the four records above only.
trait Record: Default + Copy {}
impl Record for MapInfo {}
impl Record for ProgramInfo {}
impl Record for LinkInfo {}
impl Record for CgroupLinkInfo {}

fn info<T: Record>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut record = T::default();
    let mut attribute = Info { fd: raw(fd), length: size_of::<T>() as u32, info: &raw mut record as u64 };
    // SAFETY: `record` is plain integers, and the kernel writes at most `length` bytes of it.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attribute) }?;
    Ok(record)
}

pub fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(fd)
}

pub fn program_info(fd: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    info(fd)
}

pub fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(fd)
}

pub fn cgroup_link_info(fd: BorrowedFd<'_>) -> io::Result<CgroupLinkInfo> {
    info(fd)
}

/// The number by which programs know the calling thread's network namespace (Linux 5.14).
pub fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let (mut cookie, mut length) = (0u64, size_of::<u64>() as libc::socklen_t);
    let (fd, to) = (socket.as_raw_fd(), (&raw mut cookie).cast());
    // SAFETY: `cookie` has the `length` bytes that the kernel may write.
    match unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE, to, &raw mut length) } {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs a packet program once on a packet of zeroes and returns its result.
pub fn test_run(program: BorrowedFd<'_>) -> io::Result<u32> {
    let packet = [0u8; 64];
    let mut attribute = TestRun {
        program: raw(program),
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat: 1,
        ..TestRun::default()
    };
    // SAFETY: `packet` is read for `data_size_in` bytes and lives until after the call; no output is asked for.
    unsafe { bpf(PROG_TEST_RUN, &mut attribute) }?;
    Ok(attribute.result)
}

/// An open map with keys `K` and values `V`, one value per key.
pub struct Map<K, V> {
    fd: OwnedFd,
    info: MapInfo,
    types: PhantomData<fn(K) -> V>,
}

impl<K, V> std::fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Map").field("fd", &self.fd).field("info", &self.info).finish()
    }
}

impl<K: Pod, V: Pod> Map<K, V> {
    /// Takes an open map over; refuses one whose keys or values have another size.
    pub fn new(fd: OwnedFd) -> io::Result<Map<K, V>> {
        let info = map_info(fd.as_fd())?;
        if (info.key_size as usize, info.value_size as usize) != (size_of::<K>(), size_of::<V>()) {
            let what = format!("a map with keys of {} and values of {} bytes", info.key_size, info.value_size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(Map { fd, info, types: PhantomData })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn info(&self) -> MapInfo {
        self.info
    }

    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = MaybeUninit::<V>::zeroed();
        let mut attribute = self.element(key, value.as_mut_ptr() as u64);
        // SAFETY: key and value have the sizes that `new` compared with the map's.
        match unsafe { bpf(MAP_LOOKUP_ELEM, &mut attribute) } {
            // SAFETY: `Pod`: any bytes are a value.
            Ok(_) => Ok(Some(unsafe { value.assume_init() })),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn put(&self, key: &K, value: &V) -> io::Result<()> {
        let mut attribute = self.element(key, value as *const V as u64);
        // SAFETY: key and value have the sizes that `new` compared with the map's; both are only read.
        unsafe { bpf(MAP_UPDATE_ELEM, &mut attribute) }.map(drop)
    }

    /// Deletes a key; one that is absent is no error.
    pub fn delete(&self, key: &K) -> io::Result<()> {
        let mut attribute = self.element(key, 0);
        // SAFETY: the key has the size that `new` compared with the map's and is only read.
        match unsafe { bpf(MAP_DELETE_ELEM, &mut attribute) } {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Writes all pairs, or fails with some of them written.
    pub fn put_all(&self, keys: &[K], values: &[V]) -> io::Result<()> {
        debug_assert_eq!(keys.len(), values.len());
        for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
            let mut attribute = self.batch(keys.as_ptr() as u64, values.as_ptr() as u64, keys.len().min(values.len()));
            // SAFETY: both slices hold `count` elements of the map's sizes and are only read.
            unsafe { bpf(MAP_UPDATE_BATCH, &mut attribute) }?;
        }
        Ok(())
    }

    /// Deletes all keys; those that are absent are no error.
    pub fn delete_all(&self, keys: &[K]) -> io::Result<()> {
        for keys in keys.chunks(BATCH) {
            let mut rest = keys;
            while !rest.is_empty() {
                let mut attribute = self.batch(rest.as_ptr() as u64, 0, rest.len());
                // SAFETY: the slice holds `count` keys of the map's size and is only read.
                match unsafe { bpf(MAP_DELETE_BATCH, &mut attribute) } {
                    Ok(_) => break,
                    // `count` were deleted and the next is absent.
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                        rest = rest.get(attribute.count as usize + 1..).unwrap_or_default();
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Visits every pair, in batches. Pairs that come and go meanwhile may be missed or seen twice.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &V)) -> io::Result<()> {
        let mut cursor = Cursor::default();
        while let Some(batch) = self.next_batch(&mut cursor)? {
            for (key, value) in batch.keys.iter().zip(&batch.values) {
                visit(key, value);
            }
        }
        Ok(())
    }

    /// The next batch after a cursor; `None`: there are no more.
    pub fn next_batch(&self, cursor: &mut Cursor) -> io::Result<Option<Pairs<K, V>>> {
        if cursor.done {
            return Ok(None);
        }
        let mut count = BATCH;
        loop {
            let (mut keys, mut values) = (zeroes::<K>(count), zeroes::<V>(count));
            let mut to = cursor.token;
            let mut attribute = self.batch(keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64, count);
            attribute.from = if cursor.begun { cursor.token.as_ptr() as u64 } else { 0 };
            attribute.to = to.as_mut_ptr() as u64;
            // SAFETY: both vectors have room for `count` elements of the map's sizes; a token is a key of the map or a
            // bucket number, and no map here has keys longer than a token.
            let result = unsafe { bpf(MAP_LOOKUP_BATCH, &mut attribute) };
            match &result {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => cursor.done = true,
                // One bucket of the hash has more elements than fit.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && count < BATCH << 6 => {
                    count *= 2;
                    continue;
                }
                Err(_) => return result.map(|_| None),
            }
            keys.truncate(attribute.count as usize);
            values.truncate(attribute.count as usize);
            (cursor.token, cursor.begun) = (to, true);
            return Ok(Some(Pairs { keys, values }));
        }
    }

    fn element(&self, key: &K, value: u64) -> Element {
        Element { map: raw(&self.fd), key: key as *const K as u64, value, ..Element::default() }
    }

    fn batch(&self, keys: u64, values: u64, count: usize) -> Batch {
        Batch { keys, values, count: count as u32, map: raw(&self.fd), ..Batch::default() }
    }
}

/// Where a walk over a map stands.
#[derive(Debug, Default, Clone)]
pub struct Cursor {
    token: [u64; 8],
    begun: bool,
    done: bool,
}

/// A batch: the value of `keys[n]` is `values[n]`.
#[derive(Debug)]
pub struct Pairs<K, V> {
    pub keys: Vec<K>,
    pub values: Vec<V>,
}

/// A value as the kernel sees it.
pub fn bytes<T: Pod>(value: &T) -> Vec<u8> {
    // SAFETY: `Pod`: it is nothing but its bytes.
    unsafe { std::slice::from_raw_parts((value as *const T).cast::<u8>(), size_of::<T>()) }.to_vec()
}

fn zeroes<T: Pod>(count: usize) -> Vec<T> {
    // SAFETY: `Pod`: zeroes are a value.
    vec![unsafe { MaybeUninit::<T>::zeroed().assume_init() }; count]
}

/// Reads one element of a per-CPU map: a value for each possible CPU.
pub fn get_per_cpu<V: Pod>(map: BorrowedFd<'_>, key: u32, cpus: usize) -> io::Result<Vec<V>> {
    debug_assert_eq!(size_of::<V>() % 8, 0, "the kernel rounds per-CPU values up to 8 bytes");
    let mut values = zeroes::<V>(cpus);
    let mut attribute =
        Element { map: raw(map), key: &raw const key as u64, value: values.as_mut_ptr() as u64, ..Element::default() };
    // SAFETY: `values` has room for a value of each possible CPU, which is what the kernel writes.
    unsafe { bpf(MAP_LOOKUP_ELEM, &mut attribute) }?;
    Ok(values)
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// Makes an unnamed map of a kind (`enum bpf_map_type`).
pub fn create_map(kind: u32, key_size: u32, value_size: u32, max_entries: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attribute = MapCreate { kind, key_size, value_size, max_entries, flags };
    // SAFETY: no pointers.
    let fd = unsafe { bpf(MAP_CREATE, &mut attribute) }?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// One BPF instruction, those few that probing needs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    pub const EXIT: Instruction = Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 };

    /// Sets a register to a number.
    pub const fn set(register: u8, immediate: i32) -> Instruction {
        Instruction { code: 0xb7, registers: register, offset: 0, immediate }
    }

    /// Sets a register to another.
    pub const fn copy(register: u8, from: u8) -> Instruction {
        Instruction { code: 0xbf, registers: register | from << 4, offset: 0, immediate: 0 }
    }

    /// Adds a number to a register.
    pub const fn add(register: u8, immediate: i32) -> Instruction {
        Instruction { code: 0x07, registers: register, offset: 0, immediate }
    }

    /// Clears 8 bytes of the stack.
    pub const fn clear(offset: i16) -> Instruction {
        Instruction { code: 0x7a, registers: 10, offset, immediate: 0 }
    }

    /// Calls a helper by its number.
    pub const fn call(helper: i32) -> Instruction {
        Instruction { code: 0x85, registers: 0, offset: 0, immediate: helper }
    }
}

#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    hook: u32,
}

/// Loads a packet classifier.
pub fn load_program(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    const SCHED_CLS: u32 = 3;
    load_kind(SCHED_CLS, 0, instructions)
}

/// Loads a program for a hook of cgroups that is given a socket's address.
pub fn load_socket_program(hook: u32, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    const CGROUP_SOCK_ADDR: u32 = 18;
    load_kind(CGROUP_SOCK_ADDR, hook, instructions)
}

fn load_kind(kind: u32, hook: u32, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    const LICENSE: &std::ffi::CStr = c"GPL";
    let mut attribute = ProgramLoad {
        kind,
        hook,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        ..ProgramLoad::default()
    };
    // SAFETY: instructions and license live until after the call and are only read.
    let fd = unsafe { bpf(PROG_LOAD, &mut attribute) }?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
