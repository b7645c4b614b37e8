/**
 * Calls `late` after so many seconds in which this thread was there to hear of anything: one that was busy or asleep for
 * long hears first of what has come meanwhile. Gives what ends the watch.
 */
export function watch(seconds: number, late: () => void): () => void {
  let left = seconds;
  const timer = setInterval(() => {
    if (--left > 0) return;
    stop();
    late();
  }, 1000);
  const stop = () => clearInterval(timer);
  return stop;
}
