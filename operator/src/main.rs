//! tmp
fn main() {
    for k in plumbline_crds::Kind::ALL {
        std::fs::write(
            format!("crds/{}", plumbline_operator::crds::file_name(k)),
            plumbline_operator::crds::yaml(k).unwrap(),
        )
        .unwrap();
    }
}
