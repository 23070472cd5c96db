//! What only both logs together show.
