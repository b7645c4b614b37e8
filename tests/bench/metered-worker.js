// The package's Worker, metered. In this order.
import "./meter.js";
import "/pkg/dist/worker.js";
