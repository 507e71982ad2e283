//! The page for people: three files, and the policy that lets nothing but them run.

use pap_http::response::Response;

const PAGE: &str = include_str!("../page/index.html");
const STYLE: &str = include_str!("../page/page.css");
const SCRIPT: &str = include_str!("../page/page.js");

/// The Content-Security-Policy (CSP level 3). `form-action` is closed too: the page's
/// script sends what is in its forms.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
pub fn page() -> Response {
    served("text/html; charset=utf-8", PAGE)
}

/// Its style.
pub fn style() -> Response {
    served("text/css; charset=utf-8", STYLE)
}

/// Its script.
pub fn script() -> Response {
    served("text/javascript; charset=utf-8", SCRIPT)
}

/// A browser must ask anew each time: after an upgrade the three files belong together.
fn served(content_type: &'static str, text: &str) -> Response {
    Response::text(content_type, text.to_owned())
        .with("Content-Security-Policy", POLICY)
        .with("X-Content-Type-Options", "nosniff")
        .with("Referrer-Policy", "no-referrer")
        .with("Cache-Control", "no-cache")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_keep_to_their_policy() {
        for (name, text, limit) in
            [("index.html", PAGE, 16_000), ("page.css", STYLE, 16_000), ("page.js", SCRIPT, 50_000)]
        {
            assert!(text.len() < limit, "{name}: {} bytes", text.len());
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                " style=",
                " onclick=\"",
                "<style",
                "url(",
                "@import",
                "src=\"http",
                "href=\"http",
            ] {
                assert!(!text.contains(forbidden), "{name} has {forbidden}");
            }
        }
        assert_eq!(PAGE.matches("<script").count(), 1);
        assert!(PAGE.contains("<script src=page.js defer></script>"));
        assert!(PAGE.contains("<link rel=stylesheet href=page.css>"));
    }

    #[test]
    fn each_file_has_its_type_and_the_policy() {
        for (response, content_type) in [
            (page(), "text/html; charset=utf-8"),
            (style(), "text/css; charset=utf-8"),
            (script(), "text/javascript; charset=utf-8"),
        ] {
            let headers: Vec<_> = response.headers().collect();
            assert!(headers.contains(&("Content-Type", content_type)), "{headers:?}");
            assert!(headers.contains(&("Content-Security-Policy", POLICY)), "{headers:?}");
            assert!(headers.contains(&("X-Content-Type-Options", "nosniff")), "{headers:?}");
        }
    }

    #[test]
    fn every_id_that_the_script_asks_for_is_in_the_page() {
        for part in SCRIPT.split("$(\"").skip(1) {
            let (id, _) = part.split_once('"').unwrap_or_default();
            assert!(PAGE.contains(&format!("id={id} ")) || PAGE.contains(&format!("id={id}>")), "no {id}");
        }
    }
}
