fn main() { let db = rocksdb::DB::open_default("/tmp/xrocks").unwrap(); db.put(b"a", b"b").unwrap(); println!("{:?}", db.get(b"a")); }
