//! Writes the generated code of the wire contract: `pontoon-proto-gen PROTOS OUT`.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(protos), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("usage: pontoon-proto-gen PROTOS OUT".into());
    };
    pontoon_proto_gen::generate(&protos, &out)
}
