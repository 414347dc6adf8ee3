//! Numbers and addresses as text, appended without the detour of formatting: they stand in every
//! message, reply and event.

use core::net::IpAddr;
use std::io::Write;

pub fn push_number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

pub fn push_ip(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(v4) = address else {
        write!(out, "{address}").expect("a vector takes every byte");
        return;
    };
    for (index, octet) in v4.octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        push_number(out, octet.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_formatting_gives() {
        for value in [0, 9, 10, 255, 1_000_000, u64::MAX] {
            let mut out = b"x".to_vec();
            push_number(&mut out, value);
            assert_eq!(out, format!("x{value}").into_bytes());
        }
        for address in [
            "0.0.0.0",
            "192.0.2.7",
            "255.255.255.255",
            "::",
            "2001:db8::1",
        ] {
            let mut out = Vec::new();
            push_ip(&mut out, address.parse().unwrap());
            assert_eq!(out, address.as_bytes());
        }
    }
}
