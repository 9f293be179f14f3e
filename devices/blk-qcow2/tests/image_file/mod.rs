//! Small qcow2 images, made and read without the library that serves them (the format's specification, version 3).

/// How an image is laid out: the header, one cluster of refcount table, one refcount block, the L1 table.
#[derive(Clone, Copy)]
pub struct Shape {
    pub cluster_bits: u32,
    /// Bits of a count, as a power of two.
    pub refcount_order: u32,
    /// What the guest sees, in bytes.
    pub size: u64,
}

impl Shape {
    pub fn cluster(self) -> u64 {
        1 << self.cluster_bits
    }

    fn l1_entries(self) -> u64 {
        self.size.div_ceil(self.cluster() * self.cluster() / 8)
    }

    /// An image with nothing in it.
    pub fn empty(self) -> Vec<u8> {
        let cluster = self.cluster();
        let clusters = 3 + (self.l1_entries() * 8).div_ceil(cluster);
        let mut bytes = vec![0; (clusters * cluster) as usize];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &[0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]);
        put(20, &self.cluster_bits.to_be_bytes());
        put(24, &self.size.to_be_bytes());
        put(36, &(self.l1_entries() as u32).to_be_bytes());
        put(40, &(3 * cluster).to_be_bytes());
        put(48, &cluster.to_be_bytes());
        put(56, &1u32.to_be_bytes());
        put(96, &self.refcount_order.to_be_bytes());
        put(100, &104u32.to_be_bytes());
        put(cluster as usize, &(2 * cluster).to_be_bytes());
        let mut all = Image { bytes };
        for number in 0..clusters {
            all.set_count(2 * cluster, number, self.refcount_order);
        }
        all.bytes
    }
}

/// Has `image` name a backing file.
pub fn name_backing(image: &mut [u8], name: &str) {
    let at = 120;
    image[8..16].copy_from_slice(&(at as u64).to_be_bytes());
    image[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
    image[at..at + name.len()].copy_from_slice(name.as_bytes());
}

/// The bytes of an image file; behind them there are zeroes.
pub struct Image {
    pub bytes: Vec<u8>,
}

impl Image {
    pub fn word(&self, at: u64) -> u32 {
        (self.long(at) >> 32) as u32
    }

    pub fn long(&self, at: u64) -> u64 {
        let bytes = self.bytes.get(at as usize..at as usize + 8);
        bytes.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
    }

    pub fn part(&self, at: u64, length: u64) -> Vec<u8> {
        let there = self.bytes.get(at as usize..).unwrap_or_default();
        let mut part = there[..there.len().min(length as usize)].to_vec();
        part.resize(length as usize, 0);
        part
    }

    pub fn cluster(&self) -> u64 {
        1 << self.word(20)
    }

    fn set_count(&mut self, block: u64, index: u64, order: u32) {
        let bit = index << order;
        if order < 3 {
            self.bytes[(block + bit / 8) as usize] |= 1 << (bit % 8);
        } else {
            self.bytes[(block + (bit >> 3) + (1 << (order - 3)) - 1) as usize] = 1;
        }
    }

    /// The count of a cluster.
    pub fn count(&self, number: u64) -> u64 {
        let (cluster, order) = (self.cluster(), self.word(96));
        let in_block = (cluster * 8) >> order;
        let table_entries = u64::from(self.word(56)) * cluster / 8;
        if number / in_block >= table_entries {
            return 0;
        }
        let block = self.long(self.long(48) + number / in_block * 8);
        if block == 0 {
            return 0;
        }
        let bit = (number % in_block) << order;
        if order < 3 {
            let byte = u64::from(self.part(block + bit / 8, 1)[0]);
            return byte >> (bit % 8) & ((1 << (1 << order)) - 1);
        }
        self.part(block + bit / 8, 1 << (order - 3))
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn l2_tables(&self) -> Vec<u64> {
        let entries = u64::from(self.word(36));
        (0..entries).map(|index| self.long(self.long(40) + index * 8) & 0x00ff_ffff_ffff_fe00).collect()
    }

    /// How many clusters are counted that nothing uses.
    ///
    /// # Errors
    /// A cluster that is used more often than counted.
    pub fn check(&self) -> Result<usize, String> {
        let cluster = self.cluster();
        let mut uses = std::collections::BTreeMap::<u64, (u64, &str)>::new();
        let mut add = |what, at: u64, length: u64| {
            for number in at / cluster..(at + length).div_ceil(cluster) {
                uses.entry(number).or_insert((0, what)).0 += 1;
            }
        };
        add("header", 0, cluster);
        let table_length = u64::from(self.word(56)) * cluster;
        add("refcount table", self.long(48), table_length);
        for index in 0..table_length / 8 {
            match self.long(self.long(48) + index * 8) {
                0 => {}
                block => add("refcount block", block, cluster),
            }
        }
        add("L1 table", self.long(40), u64::from(self.word(36)) * 8);
        for l2 in self.l2_tables().into_iter().filter(|at| *at != 0) {
            add("L2 table", l2, cluster);
            for index in 0..cluster / 8 {
                let entry = self.long(l2 + index * 8);
                let at = entry & 0x00ff_ffff_ffff_fe00;
                if entry >> 62 & 1 == 0 && at != 0 {
                    add("data", at, cluster);
                }
            }
        }
        for (number, (used, what)) in &uses {
            let count = self.count(*number);
            if count < *used {
                return Err(format!(
                    "cluster {number} ({what}) is used {used} times and counted {count} times"
                ));
            }
        }
        let last = self.bytes.len() as u64 / cluster + 1;
        Ok((0..last).filter(|number| self.count(*number) > 0 && !uses.contains_key(number)).count())
    }

    /// What the guest sees of `length` bytes from `offset`, both in whole sectors, where a raw disk with these bytes is `below`.
    /// Nothing of it is compressed.
    pub fn content(&self, below: &[u8], offset: u64, length: u64) -> Vec<u8> {
        let cluster = self.cluster();
        let l2_tables = self.l2_tables();
        let below = Self { bytes: below.to_vec() };
        let sector = |at: u64| {
            let number = at / cluster;
            let l2 = l2_tables[(number / (cluster / 8)) as usize];
            let entry = if l2 == 0 { 0 } else { self.long(l2 + number % (cluster / 8) * 8) };
            match entry & 0x00ff_ffff_ffff_fe00 {
                _ if entry & 1 == 1 => vec![0; 512],
                0 => below.part(at, 512),
                place => self.part(place + at % cluster, 512),
            }
        };
        (0..length / 512).flat_map(|index| sector(offset + index * 512)).collect()
    }
}
