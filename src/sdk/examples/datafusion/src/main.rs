//! DataFusion over a Corelith cluster: writes a Parquet file, and aggregates what it holds.
//!
//! ```sh
//! corelith dev &
//! cd src/sdk/examples/datafusion && cargo run
//! ```

use corelith_client::Client;
use corelith_client::object_store_0_13::CorelithStore;
use datafusion::arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::{avg, count, max};
use datafusion::prelude::{ParquetReadOptions, SessionContext, col, lit};
use std::error::Error;
use std::sync::Arc;
use url::Url;

const FILE: &str = "corelith://dev/example/trips.parquet";

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn Error>> {
    let client = Client::connect(seeds()).await?;
    let store = CorelithStore::new(client.clone());
    let context = SessionContext::new();
    context.register_object_store(&Url::parse("corelith://dev")?, Arc::new(store));

    let options = DataFrameWriteOptions::new().with_single_file_output(true);
    let trips = context.read_batch(trips()?)?;
    trips.write_parquet(FILE, options, None).await?;
    let head = client.head("example/trips.parquet").await?;
    println!("{} bytes at version {}", head.value_len, head.version);

    let trips = context
        .read_parquet(FILE, ParquetReadOptions::default())
        .await?;
    let by_city = trips
        .filter(col("km").gt(lit(1.0)))?
        .aggregate(
            vec![col("city")],
            vec![
                count(col("km")).alias("trips"),
                avg(col("km")).alias("km"),
                max(col("km")).alias("longest"),
            ],
        )?
        .sort(vec![col("city").sort(true, false)])?;
    by_city.show().await?;
    Ok(())
}

/// A hundred thousand trips in three cities.
fn trips() -> Result<RecordBatch> {
    let numbers = 0..100_000u32;
    let city = |number: u32| ["Bern", "Lyon", "Turin"][number as usize % 3];
    let cities: StringArray = numbers.clone().map(|number| Some(city(number))).collect();
    let lengths: Float64Array = numbers
        .map(|number| Some(f64::from(number % 1000) / 10.0))
        .collect();
    let columns: [(&str, ArrayRef); 2] = [("city", Arc::new(cities)), ("km", Arc::new(lengths))];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// The addresses in `CORELITH_SEEDS`, or that of `corelith dev`.
fn seeds() -> Vec<String> {
    let listed = std::env::var("CORELITH_SEEDS").unwrap_or("127.0.0.1:7411".into());
    listed.split(',').map(str::to_owned).collect()
}
