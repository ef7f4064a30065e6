//! Huffman code lengths → tables that answer with as many coefficients as one look holds (ITU T.81, C and F).

use super::fault::Fault;

/// Codes are at most this long.
const LONGEST: usize = 16;

/// Bits of a look at the first coefficient's table: most codes with the bits of their value.
const FIRST_LOOK: u32 = 10;

/// Bits of a look at the other coefficients' table: often two codes with their values. A longer look finds more, but its
/// table, and that of the other component, no longer fit the first-level cache.
const LOOK: u32 = 11;

/// The codes of one definition; its bytes are kept, so that a file with the same table costs nothing.
#[derive(Clone, Debug)]
struct Codes {
    definition: Vec<u8>,
    /// By length, the first 16 bits that begin a longer code.
    limits: [u32; LONGEST + 1],
    /// By length, the number of a code's symbol less the code.
    firsts: [i32; LONGEST + 1],
    symbols: [u8; 256],
}

impl Default for Codes {
    fn default() -> Self {
        Self { definition: Vec::new(), limits: [0; LONGEST + 1], firsts: [0; LONGEST + 1], symbols: [0; 256] }
    }
}

impl Codes {
    /// Takes in 16 counts by code length and then the symbols; `false` where that is what it holds already.
    fn define(&mut self, definition: &[u8]) -> Result<bool, Fault> {
        if self.definition == definition {
            return Ok(false);
        }
        self.definition.clear();
        let (counts, symbols) = definition.split_at_checked(LONGEST).ok_or(Fault::Tables)?;
        self.symbols.get_mut(..symbols.len()).ok_or(Fault::Tables)?.copy_from_slice(symbols);
        let (mut code, mut number) = (0u32, 0);
        for (length, count) in (1..=LONGEST).zip(counts) {
            self.firsts[length] = number - code as i32;
            code += u32::from(*count);
            number += i32::from(*count);
            if code > 1 << length {
                return Err(Fault::Tables);
            }
            self.limits[length] = code << (LONGEST - length);
            code <<= 1;
        }
        if number as usize != symbols.len() {
            return Err(Fault::Tables);
        }
        self.definition.extend_from_slice(definition);
        Ok(true)
    }

    /// The symbol whose code the next bits begin with, and the length of that code.
    fn search(&self, bits: u64) -> Option<(u8, u32)> {
        let bits = (bits >> 48) as u32;
        let length = (1..=LONGEST).find(|length| bits < self.limits[*length])?;
        let code = (bits >> (LONGEST - length)) as i32;
        let symbol = self.symbols.get(usize::try_from(self.firsts[length] + code).ok()?)?;
        Some((*symbol, length as u32))
    }

    /// Symbol and length of the code that each look of so many bits begins with; a length of 0 where it is longer.
    fn spread(&self, look: u32) -> impl Iterator<Item = (u8, u32)> {
        let mut length = 1;
        (0..1u32 << look).map(move |bits| {
            let bits = bits << (LONGEST as u32 - look);
            while length <= look as usize && bits >= self.limits[length] {
                length += 1;
            }
            if length > look as usize {
                return (0, 0);
            }
            let number = self.firsts[length] + (bits >> (LONGEST - length)) as i32;
            (self.symbols[number as usize & 255], length as u32)
        })
    }
}

/// Extends the sign of a value of `size` bits (ITU T.81, F.2.2.1).
#[inline(always)]
pub fn extend(value: u32, size: u32) -> i32 {
    let negative = size > 0 && value >> (size - 1) & 1 == 0;
    value as i32 - if negative { (1 << size) - 1 } else { 0 }
}

/// The table of first coefficients, which are coded as differences.
#[derive(Clone, Debug)]
pub struct FirstTable {
    codes: Codes,
    /// Bits to consume, 0 where a look is not enough, and the difference.
    looks: Box<[(u8, i16); 1 << FIRST_LOOK]>,
}

impl Default for FirstTable {
    fn default() -> Self {
        Self { codes: Codes::default(), looks: Box::new([(0, 0); 1 << FIRST_LOOK]) }
    }
}

impl FirstTable {
    pub fn define(&mut self, definition: &[u8]) -> Result<(), Fault> {
        if !self.codes.define(definition)? {
            return Ok(());
        }
        if definition[LONGEST..].iter().any(|size| *size > 15) {
            self.codes.definition.clear();
            return Err(Fault::Tables);
        }
        for (look, (size, length)) in self.codes.spread(FIRST_LOOK).enumerate() {
            let bits = length + u32::from(size);
            self.looks[look] = if length == 0 || bits > FIRST_LOOK {
                (0, 0)
            } else {
                let value = look as u32 >> (FIRST_LOOK - bits) & ((1 << size) - 1);
                (bits as u8, extend(value, size.into()) as i16)
            };
        }
        Ok(())
    }

    /// Bits to consume, 0 where a look is not enough, and the difference.
    #[inline(always)]
    pub fn look(&self, bits: u64) -> (u32, i32) {
        let (length, value) = self.looks[(bits >> (64 - FIRST_LOOK)) as usize];
        (length.into(), value.into())
    }

    /// The length of any code, and the bits of the difference that follow it.
    #[cold]
    pub fn search(&self, bits: u64) -> Option<(u32, u32)> {
        self.codes.search(bits).map(|(size, length)| (length, size.into()))
    }
}

/// What a look finds: up to two coefficients, each after zeros that are skipped, and whether the block ends with them.
/// Or, with no bits to consume, a code whose value does not fit the look; or nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found(u32);

impl Found {
    const IS_END: u32 = 1 << 4;
    const IS_ANY: u32 = 1 << 15;

    /// Bits to consume.
    #[inline(always)]
    pub fn bits(self) -> u32 {
        self.0 & 15
    }

    #[inline(always)]
    pub fn is_end(self) -> bool {
        self.0 & Self::IS_END != 0
    }

    /// Places to go on by: those of the zeros and of the coefficients.
    #[inline(always)]
    pub fn places(self) -> usize {
        (self.0 >> 5 & 63) as usize
    }

    /// Zeros before the first coefficient.
    #[inline(always)]
    pub fn zeros(self) -> usize {
        (self.0 >> 11 & 15) as usize
    }

    /// The first coefficient.
    #[inline(always)]
    pub fn value(self) -> i16 {
        ((self.0 << 7) as i32 >> 24) as i16
    }

    /// Where the second coefficient is; the place of the first where there is only one, and 0 for none.
    #[inline(always)]
    pub fn second_place(self) -> usize {
        self.places() - (self.0 >> 15 & 1) as usize
    }

    /// The second coefficient, or 0.
    #[inline(always)]
    pub fn second(self) -> i16 {
        (self.0 as i32 >> 25) as i16
    }

    /// Of a code whose value does not fit: its length, and the bits of the value that follow.
    #[inline(always)]
    pub fn open(self) -> (u32, u32) {
        (self.0 >> 5 & 15, self.0 >> 17 & 15)
    }

    fn of_open(length: u32, zeros: u32, size: u32) -> Self {
        Self(length << 5 | zeros << 11 | size << 17)
    }

    fn with(self, zeros: u32, value: i32, bits: u32) -> Self {
        let before = self.0 >> 5 & 63;
        let coefficients = if before == 0 {
            zeros << 11 | (value as u32 & 0xFF) << 17
        } else {
            self.0 & !0x7FF | (value as u32 & 0x7F) << 25
        };
        Self(coefficients | Self::IS_ANY | (before + zeros + 1) << 5 | bits)
    }

    fn ended(self, bits: u32) -> Self {
        Self(self.0 & !15 | Self::IS_END | bits)
    }
}

/// One symbol of the coefficients after the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbol {
    EndOfBlock,
    /// Zeros, and bits of the value after them; none for a run of sixteen zeros.
    Coefficient {
        zeros: u32,
        size: u32,
    },
}

impl From<u8> for Symbol {
    fn from(symbol: u8) -> Self {
        match (symbol >> 4, symbol & 15) {
            (15, 0) => Self::Coefficient { zeros: 15, size: 0 },
            // Runs of blocks belong to progressive pictures.
            (_, 0) => Self::EndOfBlock,
            (zeros, size) => Self::Coefficient { zeros: zeros.into(), size: size.into() },
        }
    }
}

/// The table of the coefficients after the first.
#[derive(Clone, Debug)]
pub struct Table {
    codes: Codes,
    looks: Box<[Found; 1 << LOOK]>,
    /// Symbol and length of the first code of each look, from which `looks` is made.
    spread: Vec<(u8, u32)>,
    /// Whether these are of the codes.
    is_spread: bool,
    is_looked: bool,
}

impl Default for Table {
    fn default() -> Self {
        let looks = Box::new([Found::default(); 1 << LOOK]);
        Self { codes: Codes::default(), looks, spread: Vec::new(), is_spread: false, is_looked: false }
    }
}

impl Table {
    pub fn define(&mut self, definition: &[u8]) -> Result<(), Fault> {
        if self.codes.define(definition)? {
            (self.is_spread, self.is_looked) = (false, false);
        }
        Ok(())
    }

    /// Makes what a scan needs: a file may define more tables than it uses, and a progressive scan takes single symbols.
    pub fn make_ready(&mut self, for_looks: bool) {
        if !self.is_spread {
            self.spread.clear();
            self.spread.extend(self.codes.spread(LOOK));
            self.is_spread = true;
        }
        if for_looks && !self.is_looked {
            for (look, found) in self.looks.iter_mut().enumerate() {
                *found = find(&self.spread, look as u32);
            }
            self.is_looked = true;
        }
    }

    /// The first symbol of the bits, as it is written, and the length of its code.
    #[inline(always)]
    pub fn symbol(&self, bits: u64) -> Option<(u8, u32)> {
        match self.spread.get((bits >> (64 - LOOK)) as usize) {
            Some((symbol, length)) if *length != 0 => Some((*symbol, *length)),
            _ => self.codes.search(bits),
        }
    }

    #[inline(always)]
    pub fn look(&self, bits: u64) -> Found {
        self.looks[(bits >> (64 - LOOK)) as usize]
    }

    /// The symbol of any code, and the length of that.
    #[cold]
    pub fn search(&self, bits: u64) -> Option<(Symbol, u32)> {
        self.codes.search(bits).map(|(symbol, length)| (Symbol::from(symbol), length))
    }
}

/// Takes in as many symbols as a look holds with their values.
fn find(spread: &[(u8, u32)], look: u32) -> Found {
    /// Sizes of values that fit their place in what is found, first and second.
    const SIZES: [u32; 2] = [7, 6];
    let (mut found, mut used) = (Found::default(), 0);
    for most in SIZES {
        let (symbol, length) = spread[(look << used & ((1 << LOOK) - 1)) as usize];
        let left = LOOK - used;
        if length == 0 || length > left {
            return found;
        }
        match Symbol::from(symbol) {
            Symbol::EndOfBlock => return found.ended(used + length),
            Symbol::Coefficient { zeros, size } => {
                if length + size > left || size > most {
                    return if used == 0 { Found::of_open(length, zeros, size) } else { found };
                }
                used += length + size;
                let value = look >> (LOOK - used) & ((1 << size) - 1);
                found = found.with(zeros, extend(value, size), used);
            }
        }
    }
    let (symbol, length) = spread[(look << used & ((1 << LOOK) - 1)) as usize];
    let ends = length != 0 && length <= LOOK - used && Symbol::from(symbol) == Symbol::EndOfBlock;
    if ends { found.ended(used + length) } else { found }
}
