//! Counts what the threads of one test allocate, while other tests run beside it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// The system's allocator; it counts for those threads that have an account.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static ACCOUNT: Cell<Option<&'static Account>> = const { Cell::new(None) };
    static PAUSED: Cell<bool> = const { Cell::new(false) };
}

/// What the threads that belong to it have allocated.
#[derive(Default)]
pub struct Account {
    allocations: AtomicU64,
    bytes: AtomicI64,
    most_bytes: AtomicI64,
}

impl Account {
    /// Lives as long as the process: an allocator is asked until then.
    pub fn open() -> &'static Self {
        Box::leak(Box::default())
    }

    /// Counts for the calling thread from now on.
    pub fn join(&'static self) {
        ACCOUNT.set(Some(self));
    }

    /// Makes the calling thread's allocations no allocations, though their bytes stay bytes, or counts them again.
    pub fn pause(paused: bool) {
        PAUSED.set(paused);
    }

    pub fn allocations(&self) -> u64 {
        self.allocations.load(Relaxed)
    }

    /// Those allocated and not freed, by any of its threads.
    pub fn bytes(&self) -> i64 {
        self.bytes.load(Relaxed)
    }

    /// The most that there ever were of them.
    pub fn most_bytes(&self) -> i64 {
        self.most_bytes.load(Relaxed)
    }
}

fn count(bytes: i64, allocates: bool) {
    let Some(account) = ACCOUNT.get() else { return };
    let held = account.bytes.fetch_add(bytes, Relaxed) + bytes;
    account.most_bytes.fetch_max(held, Relaxed);
    if allocates && !PAUSED.get() {
        account.allocations.fetch_add(1, Relaxed);
    }
}

#[expect(unsafe_code, reason = "an allocator is unsafe to write; this one only counts")]
// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing, since its thread-locals are
// constants without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64, true);
        // SAFETY: as this function's caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-(layout.size() as i64), false);
        // SAFETY: as this function's caller promises.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64, true);
        // SAFETY: as this function's caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64, true);
        // SAFETY: as this function's caller promises.
        unsafe { System.realloc(place, layout, size) }
    }
}
