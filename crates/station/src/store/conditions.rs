//! The SQL conditions of a list that clients may filter in several ways.

use rusqlite::types::Value;

/// Conditions that are joined by AND, and the values in them. No value ever stands in the
/// text.
#[derive(Debug)]
pub struct Conditions {
    text: String,
    values: Vec<Value>,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { text: "TRUE".into(), values: Vec::new() }
    }
}

impl Conditions {
    /// Adds a condition.
    pub fn and(&mut self, condition: &str) {
        self.text.push_str(" AND ");
        self.text.push_str(condition);
    }

    /// Adds a condition in which a value takes the place of its one `?`.
    pub fn and_with(&mut self, condition: &str, value: impl Into<Value>) {
        let place = self.value(value);
        self.and(&condition.replacen('?', &place, 1));
    }

    /// Adds a value, and returns what stands for it.
    pub fn value(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("?{}", self.values.len())
    }

    /// The text of the conditions.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The values in their order.
    pub fn values(&self) -> &[Value] {
        &self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_numbered() {
        let mut conditions = Conditions::default();
        conditions.and("a IS NULL");
        conditions.and_with("b = ?", "x".to_owned());
        assert_eq!(conditions.value(7), "?2");
        assert_eq!(conditions.text(), "TRUE AND a IS NULL AND b = ?1");
        assert_eq!(conditions.values().len(), 2);
    }
}
