// The pixels of a preview.

// Return the alpha of a cut-out, 0 to 255, from probabilities, 0 to 255. It follows the probability along the edge of
// the mask, scaled so that the threshold becomes one half, and elsewhere the mask, as in the file that is downloaded.
export function alphaOf(probabilities, width, height, threshold) {
  const radius = 1 + Math.floor(Math.max(width, height) / 400);
  const mask = probabilities.map(value => Number(value > 255 * threshold));
  const near = boxSums(mask, width, height, radius);
  const area = boxSums(mask.fill(1), width, height, radius); // smaller at the border
  const ramp = Uint8ClampedArray.from({length: 256}, (_, value) => 255 * soft(value / 255, threshold));
  const alpha = new Uint8ClampedArray(probabilities.length);
  for (let at = 0; at < alpha.length; at++) {
    alpha[at] = near[at] === 0 ? 0 : near[at] === area[at] ? 255 : ramp[probabilities[at]];
  }
  return alpha;
}

function soft(probability, threshold) {
  const centered = probability < threshold
    ? 0.5 * probability / threshold
    : 0.5 + 0.5 * (probability - threshold) / (1 - threshold);
  return Math.min(1, Math.max(0, 1.5 * (centered - 0.5) + 0.5));
}

// Return for every pixel the sum of the values in a square around it, as far as the image reaches.
function boxSums(values, width, height, radius) {
  const rows = new Uint16Array(values.length);
  for (let start = 0; start < values.length; start += width) slide(values, rows, start, 1, width, radius);
  const sums = new Uint16Array(values.length);
  for (let start = 0; start < width; start++) slide(rows, sums, start, width, height, radius);
  return sums;
}

function slide(values, sums, start, step, count, radius) {
  let sum = 0;
  for (let at = -radius; at < count; at++) {
    if (at + radius < count) sum += values[start + (at + radius) * step];
    if (at - radius > 0) sum -= values[start + (at - radius - 1) * step];
    if (at >= 0) sums[start + at * step] = sum;
  }
}
