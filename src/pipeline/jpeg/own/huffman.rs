//! Huffman code lengths → tables that answer with symbol, coefficients to skip and value in one look (ITU T.81, C and F).

use super::fault::Fault;

/// Bits that a look takes in: most codes of a photograph together with the bits of their value. Longer looks need
/// larger tables, which then crowd each other out of the first-level cache.
pub const LOOK: u32 = 11;

/// Codes are at most this long.
const LONGEST: usize = 16;

/// What an end of block adds to the place of a coefficient, so that it is told from a run that leads past the 64th.
pub const END_OF_BLOCK: u32 = 128;

/// What a look finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry(u32);

impl Entry {
    /// `bits` to consume, at most 16; coefficients to `skip`; bits of the value that are still to be read.
    fn new(bits: u32, skip: u32, open: u32, value: i32) -> Self {
        Self(bits | open << 5 | skip << 9 | (value << 17) as u32)
    }

    /// Bits to consume; 0 for a code that is longer than a look, and for none.
    #[inline(always)]
    pub fn bits(self) -> u32 {
        self.0 & 31
    }

    #[inline(always)]
    pub fn open(self) -> u32 {
        self.0 >> 5 & 15
    }

    #[inline(always)]
    pub fn skip(self) -> usize {
        (self.0 >> 9 & 255) as usize
    }

    #[inline(always)]
    pub fn value(self) -> i32 {
        self.0 as i32 >> 17
    }

    /// Whether this is a whole answer: a code with its value.
    #[inline(always)]
    pub fn is_whole(self) -> bool {
        self.open() == 0 && self.bits() != 0
    }
}

/// One table of a file; its bytes are kept, so that a file with the same table costs nothing.
#[derive(Clone, Debug)]
pub struct Table {
    definition: Vec<u8>,
    looks: Box<[Entry; 1 << LOOK]>,
    /// By code length: the first code that is longer, shifted to 16 bits, and the symbol of the first of this length.
    limits: [u32; LONGEST + 1],
    firsts: [i32; LONGEST + 1],
    symbols: [u8; 256],
}

impl Default for Table {
    fn default() -> Self {
        Self {
            definition: Vec::new(),
            looks: Box::new([Entry::default(); 1 << LOOK]),
            limits: [0; LONGEST + 1],
            firsts: [0; LONGEST + 1],
            symbols: [0; 256],
        }
    }
}

/// Extends the sign of a value of `size` bits (ITU T.81, F.2.2.1).
#[inline(always)]
pub fn extend(value: u32, size: u32) -> i32 {
    let negative = value >> size.wrapping_sub(1) & 1 == 0 && size > 0;
    value as i32 - if negative { (1 << size) - 1 } else { 0 }
}

impl Table {
    /// Takes in a definition: 16 counts by code length, then the symbols.
    pub fn define(&mut self, definition: &[u8], is_dc: bool) -> Result<(), Fault> {
        if self.definition == definition {
            return Ok(());
        }
        self.definition.clear();
        let (counts, symbols) = definition.split_at_checked(LONGEST).ok_or(Fault::Tables)?;
        if symbols.len() > self.symbols.len() || (is_dc && symbols.iter().any(|symbol| *symbol > 15)) {
            return Err(Fault::Tables);
        }
        self.symbols[..symbols.len()].copy_from_slice(symbols);
        self.number(counts, symbols.len())?;
        self.fill(is_dc);
        self.definition.extend_from_slice(definition);
        Ok(())
    }

    /// Gives each length its range of codes.
    fn number(&mut self, counts: &[u8], symbols: usize) -> Result<(), Fault> {
        let (mut code, mut first) = (0u32, 0i32);
        for (length, count) in counts.iter().enumerate().map(|(index, count)| (index + 1, u32::from(*count))) {
            self.firsts[length] = first - code as i32;
            code += count;
            first += count as i32;
            if code > 1 << length {
                return Err(Fault::Tables);
            }
            self.limits[length] = code << (LONGEST - length);
            code <<= 1;
        }
        if first as usize == symbols { Ok(()) } else { Err(Fault::Tables) }
    }

    fn fill(&mut self, is_dc: bool) {
        for look in 0..1 << LOOK {
            let bits = (look as u32) << (LONGEST as u32 - LOOK);
            self.looks[look] = match self.search(bits, 1, LOOK as usize) {
                Some((symbol, length)) => entry(symbol, length, look as u32, is_dc),
                None => Entry::default(),
            };
        }
    }

    /// The symbol whose code begins the 16 `bits`, and the length of that code.
    fn search(&self, bits: u32, from: usize, to: usize) -> Option<(u8, u32)> {
        let length = (from..=to).find(|length| bits < self.limits[*length])?;
        let code = (bits >> (LONGEST - length)) as i32;
        let symbol = self.symbols.get(usize::try_from(self.firsts[length] + code).ok()?)?;
        Some((*symbol, length as u32))
    }

    #[inline(always)]
    pub fn look(&self, bits: u64) -> Entry {
        self.looks[(bits >> (64 - LOOK)) as usize]
    }

    /// The answer for a code that is longer than a look; `None` where there is no such code.
    #[cold]
    pub fn long(&self, bits: u64) -> Option<(Entry, u32)> {
        let (symbol, length) = self.search((bits >> 48) as u32, LOOK as usize + 1, LONGEST)?;
        let (skip, open) = split(symbol);
        Some((Entry::new(0, skip, open, 0), length))
    }
}

/// Coefficients to skip and bits of the value.
fn split(symbol: u8) -> (u32, u32) {
    match (symbol >> 4, symbol & 15) {
        (15, 0) => (15, 0),
        // Runs of blocks belong to progressive pictures.
        (_, 0) => (END_OF_BLOCK, 0),
        (skip, size) => (skip.into(), size.into()),
    }
}

fn entry(symbol: u8, length: u32, look: u32, is_dc: bool) -> Entry {
    let (skip, size) = if is_dc { (0, symbol.into()) } else { split(symbol) };
    let whole = length + size;
    if whole > LOOK {
        return Entry::new(length, skip, size, 0);
    }
    let value = look >> (LOOK - whole) & ((1 << size) - 1);
    Entry::new(whole, skip, 0, extend(value, size))
}
