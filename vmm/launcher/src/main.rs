//! The program `vmm`; all of it is the library of this name, so that its parsers can be fed by a fuzzer.

fn main() {
    vmm::main()
}
