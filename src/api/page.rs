//! The page for people: one file, and the policy that lets nothing but that
//! file's own script and style run.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pap_http::request::Request;
use pap_http::response::Response;
use ring::digest::{SHA256, digest};

const PAGE: &str = include_str!("page.html");

/// The Content-Security-Policy (CSP level 3), which names the script and the
/// style by their hashes.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(between(PAGE, "<script>", "</script>")),
        hash(between(PAGE, "<style>", "</style>")),
    )
});

/// The page.
pub fn page() -> Response {
    Response::text("text/html; charset=utf-8", PAGE.to_owned())
        .with("Content-Security-Policy", POLICY.as_str())
        .with("X-Content-Type-Options", "nosniff")
        .with("Referrer-Policy", "no-referrer")
        .with("Cache-Control", "no-cache")
        .with("Vary", "Accept")
}

/// Whether a client asks for HTML at least as much as for JSON (RFC 9110 §12.5.1). A client
/// that takes anything gets JSON.
pub fn is_preferred(request: &Request<'_>) -> bool {
    is_html_preferred(request.tokens("Accept"))
}

fn is_html_preferred<'a>(ranges: impl Iterator<Item = &'a str>) -> bool {
    let (mut html, mut json) = (0.0, 0.0);
    {
        for range in ranges {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let quality =
                parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
            match name.to_ascii_lowercase().as_str() {
                "text/html" => html = quality,
                "application/json" => json = quality,
                _ => {}
            }
        }
    }
    html > 0.0 && html >= json
}

fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes())))
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).unwrap_or_default();
    rest.split_once(end).unwrap_or_default().0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_keeps_to_its_policy() {
        assert!(PAGE.len() < 41_000, "{} bytes", PAGE.len());
        for tag in ["<script>", "</script>", "<style>", "</style>"] {
            assert_eq!(PAGE.matches(tag).count(), 1, "{tag}");
        }
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            " style=",
            "src=\"http",
        ] {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
        assert_eq!(hash(""), "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "FIPS 180-4 of nothing");
    }

    #[test]
    fn browsers_get_the_page_and_others_json() {
        let prefers = |accept: &str| is_html_preferred(accept.split(',').map(str::trim));
        assert!(prefers("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(prefers("application/json;q=0.5, text/html"));
        assert!(!prefers("*/*"));
        assert!(!prefers("application/json, text/html;q=0.9"));
        assert!(!prefers("text/html;q=0"));
        assert!(!prefers(""));
    }
}
