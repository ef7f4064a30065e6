//! Open shards as memory, so that pixels are used where the system holds them.
//!
//! A page of a file that was cut short is no memory any more: touching it raises SIGBUS, which would end the process.
//! Here it raises a flag instead. The handler of the signal puts a page of zeros in that place and marks the map as torn;
//! whoever used the map asks afterwards whether it is, and then throws away what came of it.

#![cfg(target_os = "linux")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Maps at a time in this process; more shards than that are read without one. Two sets have as many open files.
const MOST: usize = 1024;

/// Where maps lie, for the handler, which may neither lock nor allocate.
static PLACES: [Place; MOST] = [const { Place::free() }; MOST];

/// Held while a place is chosen or emptied.
static CHOICE: Mutex<()> = Mutex::new(());

/// What SIGBUS did before; none where the handler could not be set.
static BEFORE: OnceLock<Option<libc::sigaction>> = OnceLock::new();

#[derive(Debug)]
struct Place {
    /// 0 in a place that is free.
    start: AtomicUsize,
    end: AtomicUsize,
    torn: AtomicBool,
}

impl Place {
    const fn free() -> Self {
        Self { start: AtomicUsize::new(0), end: AtomicUsize::new(0), torn: AtomicBool::new(false) }
    }
}

/// A file's bytes as memory, which others may overwrite or cut at any time.
#[derive(Debug)]
pub struct Map {
    place: &'static Place,
    length: usize,
}

impl Map {
    /// The first `length` bytes of a file; none where the system or [`MOST`] stand against it.
    #[expect(unsafe_code, reason = "a map is asked of the system")]
    pub fn of(file: &File, length: u64) -> Option<Self> {
        let length = usize::try_from(length).ok().filter(|length| *length > 0)?;
        BEFORE.get_or_init(listen).as_ref()?;
        let _choice = CHOICE.lock().unwrap_or_else(PoisonError::into_inner);
        let place = PLACES.iter().find(|place| place.start.load(SeqCst) == 0)?;
        // SAFETY: a new map of a file that is open, in a place that the system chooses.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        place.torn.store(false, SeqCst);
        place.end.store(start as usize + length, SeqCst);
        place.start.store(start as usize, SeqCst);
        Some(Self { place, length })
    }

    /// What they are worth, [`Self::is_torn`] tells only afterwards.
    #[expect(unsafe_code, reason = "a map's bytes as a slice")]
    pub fn bytes(&self) -> &[u8] {
        let start = self.place.start.load(SeqCst) as *const u8;
        // SAFETY: the map is as long as that and lives as long as this, and its memory can be read for all that time:
        // what is cut off is replaced by zeros. Others may write to the file; whatever bytes are seen then are numbers,
        // and are thrown away after the file's time is found changed.
        unsafe { std::slice::from_raw_parts(start, self.length) }
    }

    /// Whether some of the bytes that were read were not in the file any more.
    pub fn is_torn(&self) -> bool {
        self.place.torn.load(SeqCst)
    }
}

impl Drop for Map {
    #[expect(unsafe_code, reason = "a map is given back to the system")]
    fn drop(&mut self) {
        let _choice = CHOICE.lock().unwrap_or_else(PoisonError::into_inner);
        let start = self.place.start.swap(0, SeqCst) as *mut libc::c_void;
        // SAFETY: the map that was made here, to which nothing refers any more.
        unsafe { libc::munmap(start, self.length) };
    }
}

/// Sets the handler, and tells what there was before.
#[expect(unsafe_code, reason = "a signal's handler is set through the system")]
fn listen() -> Option<libc::sigaction> {
    // SAFETY: a structure of numbers, all of which may be 0; and the handler does only what one may do.
    unsafe {
        let (mut handler, mut before): (libc::sigaction, libc::sigaction) = (std::mem::zeroed(), std::mem::zeroed());
        handler.sa_sigaction = on_bus_error as *const () as usize;
        handler.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut handler.sa_mask);
        (libc::sigaction(libc::SIGBUS, &raw const handler, &raw mut before) == 0).then_some(before)
    }
}

/// Puts zeros where a page is gone from one of our maps. Anything else is what it would be without this handler, which
/// then goes.
#[expect(unsafe_code, reason = "a signal's handler is called by the system")]
extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the system gives the address of what could not be read. The calls are those of a handler: `sysconf` of the
    // page's size, `mmap`, `sigaction` and `raise` enter the kernel and nothing else.
    unsafe {
        // Sent by a process, it says nothing of memory.
        let is_sent = (*info).si_code <= 0;
        if !is_sent && mend((*info).si_addr() as usize) {
            return;
        }
        let before = BEFORE.get().copied().flatten();
        let default = libc::sigaction { sa_sigaction: libc::SIG_DFL, ..std::mem::zeroed() };
        libc::sigaction(signal, &raw const *before.as_ref().unwrap_or(&default), ptr::null_mut());
        // The same access meets what was there before; what was sent must be sent again.
        if is_sent {
            libc::raise(signal);
        }
    }
}

/// Puts zeros in place of the page that holds an address, if it belongs to a map.
#[expect(unsafe_code, reason = "a page is asked of the system")]
fn mend(address: usize) -> bool {
    let mut is_ours = false;
    for place in &PLACES {
        let (start, end) = (place.start.load(SeqCst), place.end.load(SeqCst));
        // Another map's place may be taken or given up meanwhile. That of the map that was touched cannot.
        let is_settled = start > 0 && place.start.load(SeqCst) == start;
        if is_settled && (start..end).contains(&address) {
            place.torn.store(true, SeqCst);
            is_ours = true;
        }
    }
    // SAFETY: a page of one of our maps, from which nothing can be read any more, is exchanged for one of zeros.
    is_ours
        && unsafe {
            let page = libc::sysconf(libc::_SC_PAGESIZE) as usize;
            let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let start = (address & !(page - 1)) as *mut libc::c_void;
            libc::mmap(start, page, libc::PROT_READ, flags, -1, 0) != libc::MAP_FAILED
        }
}
