/** A file's address, as bundlers give it that are told to treat it as an asset. */
declare const address: string;
export default address;
